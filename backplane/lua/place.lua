--! include line
-- Where a turn that became ready stands in the line.
-- ARGV 1 turn (tenant/thread/request)  2 tenant  3 user
-- Returns its place, about: 1 is next; 0 when it does not wait.
return place_of(ARGV[1], ARGV[2], ARGV[3])
