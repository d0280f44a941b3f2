"""From a network and a photograph to class probabilities, window by window, and to scores."""
