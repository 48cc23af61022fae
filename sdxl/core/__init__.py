"""The ground: errors, types that cross rooms, the store, records on disk, this machine."""
