--! include thread notice
-- Who watches a thread, and which worker answers. A node says who watches it there, and is believed for a while: what a
-- node said that died ends by itself. When the answer has changed since it was told last, those who watch are told.
-- KEYS 13 watchers
-- ARGV 1 subject, '' for a node  2 node, '' only to ask  3 who watches there (JSON: subject -> connections), '' for nobody
--      4 how long that is believed (ms)  5 '1' if the node has said so before
-- Returns {'not_found'} or {'ok', epoch, who watches (inside of a JSON list), primary turn or '', its state, its worker}.
if not may_see(arg(1)) then
  return {'not_found'}
end
local key, node = KEYS[13], arg(2)
if node ~= '' then
  if arg(3) == '' then
    redis.call('HDEL', key, 'node:' .. node)
  else
    redis.call('HSET', key, 'node:' .. node, (NOW + arg(4)) .. ' ' .. arg(3))
  end
end
local people, names, total, told = {}, {}, 0, nil
local stored = redis.call('HGETALL', key)
for n = 1, #stored, 2 do
  local before, said = string.match(stored[n + 1], '^(%d+) (.*)$')
  if stored[n] == 'told' then
    told = stored[n + 1]
  elseif tonumber(before) > NOW then
    for subject, connections in pairs(cjson.decode(said)) do
      if not people[subject] then
        names[#names + 1] = subject
      end
      people[subject] = (people[subject] or 0) + connections
      total = total + connections
    end
  elseif node ~= '' then
    redis.call('HDEL', key, stored[n])
  end
end
table.sort(names)
local shown = {}
for n, subject in ipairs(names) do
  shown[n] = '{"subject":' .. cjson.encode(subject) .. ',"connections":' .. people[subject] .. '}'
end
local watchers = table.concat(shown, ',')
if node ~= '' then
  if total == 0 then
    redis.call('DEL', key)
  else
    if watchers ~= told then
      redis.call('HSET', key, 'told', watchers)
      -- who comes to an empty room knows it; who stayed while all of this lapsed does not know who has left meanwhile
      if told or total > 1 or arg(5) == '1' then
        notify('thread_presence', ',"watchers":[' .. watchers .. ']')
      end
    end
    redis.call('PEXPIRE', key, arg(4))
  end
end
local head = redis.call('HMGET', THREAD, 'epoch', 'running')
local turn = head[2] and redis.call('HMGET', TURNS .. head[2], 'state', 'worker') or {}
return {'ok', head[1], watchers, head[2] or '', turn[1] or 'idle', turn[1] == 'running' and turn[2] or ''}
