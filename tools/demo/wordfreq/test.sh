#!/bin/sh
# Each case: input, how many words, what must come out.
failed=0
check() {
    got=$(printf "$1" | ./wordfreq "$2" | tr -s ' \n' ' ')
    if [ "$got" = "$3" ]; then
        echo "ok    $4"
    else
        echo "FAIL  $4: expected '$3', got '$got'"
        failed=1
    fi
}
check 'b a b' 2              ' 2 b 1 a '  'counts words, the most frequent first'
check 'Tea tea TEA' 1        ' 3 tea '    'does not mind capitals'
check 'x y' 2                ' 1 x 1 y '  'breaks ties by the alphabet'
check 'one, two; two.\n' 1   ' 2 two '    'takes only letters for words'
check '' 5                   ''           'is silent about nothing'
exit $failed
