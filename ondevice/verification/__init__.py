"""What a build proves of the files that it wrote, in every installed runtime."""
