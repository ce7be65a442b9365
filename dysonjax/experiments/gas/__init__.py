"""A Dyson gas over temperatures and seeds, beside exact laws."""
