"""One file per kind of data source, each with the function that an option of conf/data names."""
