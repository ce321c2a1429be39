//! The one HTTP client of the command line, over TCP and Unix sockets.
