"""Generator and discriminator pairs. They know nothing of norms or datasets."""
