"""Real stock: what lies in the warehouse, what campaigns and the shop are given of it, and how parcels go out."""
