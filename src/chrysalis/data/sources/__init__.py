"""One file per kind of data source, each with the function that a leaf of conf/data names."""
