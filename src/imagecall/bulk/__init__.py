"""Many items: files of records, kinds of records, their conversion, and the images in them."""
