-- Many records in one call. `step` is the short way as a function, which answers `false` where the
-- short way does not suffice. ARGV is, for each key, the number of its arguments and these.

local answers, at = {}, 0
for i = 1, #KEYS do
  answers[i] = step(KEYS[i], at + 1)
  at = at + 1 + ARGV[at + 1]
end
return answers
