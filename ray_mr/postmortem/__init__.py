"""What a failed attempt leaves: dead letters, and the means to replay it."""
