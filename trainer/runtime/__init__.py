"""Processes, devices, disks: what training needs of the machine."""
