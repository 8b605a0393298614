"""Reports as a page, as Markdown and as a table in the terminal."""
