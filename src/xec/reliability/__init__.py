"""What a model knows of its own limits: intervals, the domain of its training, dead light."""
