"""Redis behind one small contract."""
