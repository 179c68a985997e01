"""What commands show: rows and tables built from documents."""
