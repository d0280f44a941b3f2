"""What people draw with annotation tools and in a GIS → masks."""
