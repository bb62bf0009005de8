"""The ground floor: files, programs and hosts; it knows nothing of images."""
