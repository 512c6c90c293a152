"""The property collector: which objects and properties a filter selects, paged and updated."""
