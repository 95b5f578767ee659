--! include thread emit session lane approval turn once
-- Take one waiting message out of its lane, or all of them out of all lanes.
-- ARGV 1 subject  2 request, '' for all  3 call (a fresh id)
-- Returns {code, removed request ids …}.
if not may_see(arg(1)) then
  return {'not_found'}
end
local before = answered('last_unqueue', arg(3))
if before then
  return before
end
if arg(2) == '' then
  return answer_with('last_unqueue', arg(3), {'ok', unpack(drop_all_waiting())})
end
if not is_queued(arg(2)) then
  return {'ok'}
end
drop_waiting(arg(2))
return answer_with('last_unqueue', arg(3), {'ok', arg(2)})
