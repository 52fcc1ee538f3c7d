"""Completion in bash, where click's own script falls short."""

from __future__ import annotations

import os
from typing import ClassVar

from click.shell_completion import BashComplete, split_arg_string

# click's lets bash take a name such as *.example.com for a pattern, so that files of the folder take its place; and it
# goes by bash's words, of which --config=FILE is three. What is completed outside of quotes is quoted, a name that is a
# wildcard above all; within quotes bash wants it as it is.
_SCRIPT = """\
%(complete_func)s() {
    local response type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
    while IFS=',' read -r type value; do
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            [[ ${COMP_WORDS[COMP_CWORD]} == [\\"\\']* ]] || printf -v value '%%q' "$value"
            COMPREPLY+=("$value")
        fi
    done <<< "$response"
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Takes the line itself, up to the cursor. A script that an older dualcert has written still sends words."""

    source_template: ClassVar[str] = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if line is None:
            return super().get_completion_args()
        # With something at its end the last word is the one that is being typed, also where it is empty.
        *words, last = split_arg_string(f"{line}.")
        return words[1:], last.removesuffix(".")
