"""`duplexctl top`: a daemon, or several, on a terminal, again and again.

    look (client/looking_on.py) -> moment -> overview -> frame -> terminal
                                                ^ position <- key

Everything between the look and the terminal is computed from values: two moments make rates, rates
and a status make rows (`overview`), rows and a position make lines (`frame`), a key moves the
position. Only `feed`, `keyboard` and `live` wait for anything. So what a screen shows of a failed
disk, or of a daemon that has gone, is a question that tests ask without a terminal.

rich draws: it is there for the tables of `status` already. textual would bring a second event loop
and a dozen packages for one list, a page of details and six keys.

Two rules hold for all of it. Green is shown only where health was asked, answered, and has nothing
to say against it. And every text of the daemon is made printable in the encoding of the terminal
when it arrives (`moment`), before anything measures it, so that no tag moves the cursor.
"""
