"""Read a person's own digits: an application of the library, for models of 28 x 28 grey digits."""
