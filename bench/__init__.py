"""Load: crowds of buyers, and what they measure."""
