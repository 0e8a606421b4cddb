"""Three replicas on loopback behind each of the shipped load balancers, and load on them."""
