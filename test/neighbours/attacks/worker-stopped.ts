import { hang } from '../hang.js';

export default hang('is stopped (SIGSTOP)', 'SIGSTOP');
