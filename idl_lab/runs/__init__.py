"""Headless: the series of labs, papermill runs, their results, the gallery."""
