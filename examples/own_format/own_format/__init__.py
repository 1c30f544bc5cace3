"""A lab's own plug-in for ActSort: a format, a feature, a strategy and a classifier."""
