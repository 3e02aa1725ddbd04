"""Where stages run: one file an engine. ``engine`` says what is asked of one; ``local`` has worker processes."""
