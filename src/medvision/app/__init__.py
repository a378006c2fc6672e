"""Local app to try models in a browser; needs the extra ``app``."""
