"""What is known of filesystems and their locks, what the user said about places, and the choice that follows."""
