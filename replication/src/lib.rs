//! One ordered, agreed log out of several write-ahead logs.
