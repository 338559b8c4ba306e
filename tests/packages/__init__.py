"""What `make packages` has built, installed from the files into empty environments and used there: `make test-packages`."""
