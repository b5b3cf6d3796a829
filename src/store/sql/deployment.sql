select deployment_id, former_ids, looks_back, adopts
from dispatcher.deployments
where consumer_group = $1 and topic = $2 and target = $3
