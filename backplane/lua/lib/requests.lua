-- The turns of which something may be kept: a delete has to find them all, and a script cannot search. Each start looks
-- at two older ones, and leaves out those that are forgotten: so the list stays as long as what is kept.
local function note_request(list, request)
  for _ = 1, 2 do
    local older = redis.call('LPOP', list)
    if older and redis.call('EXISTS', TURNS .. older) == 1 then
      redis.call('RPUSH', list, older)
    end
  end
  redis.call('RPUSH', list, request)
  redis.call('PEXPIRE', list, THREAD_TTL)
end
