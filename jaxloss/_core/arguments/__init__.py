"""From what a user passes to frozen values: the checks and the tail of every loss.

`public` is the door of each loss, `checks` has the messages, `tail` masks, weighs and
reduces, `classes` adds the class axis. No loss is computed in this room.
"""
