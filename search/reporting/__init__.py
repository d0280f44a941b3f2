"""What people read about a search: text in a terminal, JSON, and one HTML page."""
