"""The one reader of picture files: photographs and masks, whoever wrote them."""
