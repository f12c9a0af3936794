"""The labs: a folder for each notebook, NN_topic.ipynb, and a kit that they share."""
