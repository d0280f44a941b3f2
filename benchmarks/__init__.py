"""What things cost: each benchmark times two sides in one run and prints their ratio."""
