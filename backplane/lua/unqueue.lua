--! include thread emit session lane turn
-- Take one waiting message out of its lane, or all of them out of all lanes.
-- ARGV 1 subject  2 request, '' for all
-- Returns {code, removed request ids …}.
if not may_see(arg(1)) then
  return {'not_found'}
end
if arg(2) == '' then
  return {'ok', unpack(drop_all_waiting())}
end
if not is_queued(arg(2)) then
  return {'ok'}
end
drop_waiting(arg(2))
return {'ok', arg(2)}
