"""Learn image features from unlabelled pictures by colorization (Zhang, Isola, Efros, ECCV 2016)."""
