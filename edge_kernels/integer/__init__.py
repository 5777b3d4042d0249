"""Networks in integers: their form, their meaning, their two exports."""
