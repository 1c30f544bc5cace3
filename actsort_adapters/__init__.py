"""Readers and writers of the toolkits' native results, each a plug-in of `actsort_core`."""
