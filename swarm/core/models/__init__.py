"""Models, the engines that serve them, and what a model server is asked and answers. Pure."""
