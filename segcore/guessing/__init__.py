"""A folder of photographs and masks → a dataset.yaml, with every guess explained."""
