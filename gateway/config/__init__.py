"""Configuration: reads the files, gathers every problem, makes one frozen snapshot. Not pure: it reads files.

Beside the path: books call `load`, the workers only ever see `snapshot.Snapshot`. The environment and the clock come in as
arguments. Must never know the network, the stores or what a snapshot is used for; secrets leave it only inside `Secret`.
A bad file changes nothing: `load` returns the problems, and the caller keeps what it has.

    documents    YAML text to plain values, with the line of each      substitute   ${NAME} in strings
    fields       how one value is written (dollars, listeners, ...)     http_proxy   `proxy_url`, or HTTPS_PROXY
    gateway_file, team_file   what gateway.yaml and a team file may say
    files        which files there are, and reading only those that changed
    settings     gateway.yaml to `Settings`, secrets read      certificates   tried as the workers will use them
    load         everything together      checks   what only shows when files are held against each other
    shipped      the cards and tiers that come with the product
    write        `gateway init` and `gateway keys`      watch   has anything changed?      schemas   for editors
"""
