"""`gateway demo`: the whole product in a temporary folder, against the simulator, and at the end the bill held against it.

command   the command and its options        run       what happens, in order
folder    the configuration it makes         gateway   `gateway serve` as a child
traffic   two teams that call                table     what is shown meanwhile
bill      our ledger beside the simulator's own account: pure
paper     the bill as a table, as text and as JSON
"""
