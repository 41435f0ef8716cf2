"""What vouches for a program: envelope, verification, appraisal. Pure."""
