"""One file per kind of data source, each with the function that is the _target_ of a file in conf/data."""
