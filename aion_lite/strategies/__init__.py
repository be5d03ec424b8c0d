"""Ways to need less data. They sit on top of everything else in the package; nothing below imports one."""
