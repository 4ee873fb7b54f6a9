"""What `make` calls, and what only tests of several folders share. Every module here can be run or imported alone."""
