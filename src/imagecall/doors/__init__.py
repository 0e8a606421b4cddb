"""The doors through which others call us: they translate, call what is below, and back."""
